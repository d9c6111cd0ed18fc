"""Reading in place: ranges and records of segments, wherever they are."""
