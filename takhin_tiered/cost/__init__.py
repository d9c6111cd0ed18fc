"""What the tiers cost. Pure: bytes, requests and prices in, dollars out. It knows nothing of segments or stores."""
