"""Training: one loop, one loss for each model, data from the micro world or from folders."""
