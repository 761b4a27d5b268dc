"""Prepared features: Parquet shards named by content, in a folder or an object store."""
