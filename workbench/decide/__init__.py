"""Decisions from (y_true, scores): metrics, thresholds, calibration, bootstrap. No TensorFlow."""
