"""What one input of a task is, and how it becomes rows of model inputs: a reader a modality."""
