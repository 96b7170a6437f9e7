"""What a training run says about itself: progress for its observers, the log of metrics, and pictures."""
