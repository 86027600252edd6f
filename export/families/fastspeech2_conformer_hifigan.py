"""HiFi-GAN as FastSpeech 2 has it: apart from what configs leave out, SpeechT5's. https://arxiv.org/abs/2010.05646"""

from __future__ import annotations

from dataclasses import replace

from precast.export.blocks.vocoder import VocoderSpec
from precast.export.families import speecht5_hifigan

__all__ = ["FAMILY"]

FAMILY = replace(speecht5_hifigan.FAMILY, spec=VocoderSpec)
