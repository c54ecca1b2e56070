"""Images: folders, classes, the evaluation transform, decoding, batches on a device."""
