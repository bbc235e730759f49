"""The papers' grid of settings and comparison of backbones, trained again."""
