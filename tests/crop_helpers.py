"""What the tests of crops share."""


def torchvision_centre(width, height, size, fraction):
    """torchvision's `Resize(int(size / fraction))` and `CenterCrop(size)`: (width, height) between, and the box."""
    short = int(size / fraction)
    long = int(short * max(width, height) / min(width, height))
    whole = (short, long) if width <= height else (long, short)
    left, top = (round((side - size) / 2.0) for side in whole)
    return whole, (left, top, left + size, top + size)
