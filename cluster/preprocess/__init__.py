"""Preprocessing: a client's image or text → the model's input arrays, in numpy and PIL only.

image file ──► ImageFile ──► PIL image, upright ──► image_tensor ──► [channels, size, size]
               image_file.py                        tensor.py
               limits before decoding;              flatten.py: to RGB or grey
               repair.py: what viewers ignore

text ──► TextEncoder ──► input_ids, attention_mask [max_length]
         text_encoder.py

Training, evaluation and serving use the same functions.
"""

from cluster.preprocess.image_file import IMAGE_FORMATS, ImageFile, decode_image
from cluster.preprocess.tensor import image_tensor
from cluster.preprocess.text_encoder import TextEncoder

__all__ = ["IMAGE_FORMATS", "ImageFile", "TextEncoder", "decode_image", "image_tensor"]
