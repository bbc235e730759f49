"""Training: experiments, the network and its loop, and the folder of a run."""
