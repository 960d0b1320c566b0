"""From a picture to its attention map."""
