"""The terminal itself: driver, input, notices, pixel graphics, and lending it to other programs."""
