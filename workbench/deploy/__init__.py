"""From the float student to the phone: quantise, prove that nothing changed, pack, verify.

Importing this package loads nothing; `tflite`, `bundle` and `verify` need no TensorFlow.
"""
