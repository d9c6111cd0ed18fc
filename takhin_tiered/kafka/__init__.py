"""The read-only Kafka endpoint: any Kafka client reads the archive and the closed local segments.

`codec` and `messages` are the wire format, `server`, `connection` and `frames` move it, `endpoint` puts the handlers
of the APIs together.
"""
