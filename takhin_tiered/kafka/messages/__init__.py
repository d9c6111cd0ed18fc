"""The requests and responses that this endpoint understands, by area.

Names and order of the fields are Kafka's own (in snake case), for the versions in `takhin_tiered.kafka.apis`.
Source: Kafka, ``clients/src/main/resources/common/message/*.json``.
"""
