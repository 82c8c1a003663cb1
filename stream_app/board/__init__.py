"""The board: the read model as web pages, and as the look-up API.

The look-up API: `lookup` has the handlers, `api_access` says who may ask, `openapi` describes them, `waiting_leads`
searches Kafka.
"""
