"""The audit: is this dataset fit to train on? See `report`."""
