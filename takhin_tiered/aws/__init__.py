"""The AWS SDK's session, for whatever speaks to AWS: S3, DynamoDB."""
