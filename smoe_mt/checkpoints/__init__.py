"""What is done with checkpoint files: read safely, looked into, averaged, converted, split over files and put together."""
