"""Virtual time: the second driver of the same cores that run on devices."""
