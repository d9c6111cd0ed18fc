"""Every Kafka client that a user may have, each behind the same few words, in a process of its own."""
