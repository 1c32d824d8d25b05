"""Series that are computed from others when samples are stored, so that they are kept, judged and drawn like any."""
