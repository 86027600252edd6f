"""Data-driven pre-processing: everything a processor needs is in the artifact."""
