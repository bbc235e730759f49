"""Evaluation: calibration on validation photos, figures on test photos, and the report."""
