"""Multi-frame ultrasound in DICOM: located and decoded lazily, grey only, and nothing read that may name a patient."""
