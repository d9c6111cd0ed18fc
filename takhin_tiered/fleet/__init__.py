"""Many brokers, one archive: a catalog that they share on DynamoDB."""
