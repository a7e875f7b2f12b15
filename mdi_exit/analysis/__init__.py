"""What runs amount to: figures of reports."""
