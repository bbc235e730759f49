"""What a finished run is shipped as."""
