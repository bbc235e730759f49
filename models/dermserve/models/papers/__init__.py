"""Train the papers' grid of settings, and compare backbones, as in the papers."""
