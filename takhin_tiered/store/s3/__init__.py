"""S3, MinIO, and whatever else speaks S3's protocol: see `store`. To be imported only where it is used."""

from takhin_tiered.store.s3.store import S3Store, open_s3

__all__ = ["S3Store", "open_s3"]
