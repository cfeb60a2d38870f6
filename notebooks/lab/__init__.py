"""What the notebooks share: starting services, drawing, breaking, measuring."""
