"""The gateway: receives Clay's callbacks and serves the look-up API over HTTP.

Callbacks: `receiver` shows the whole way; `bodies` reads them, `callback_answers` has the texts, `erased_leads` knows
whose data is not kept. The look-up API: `lookup` has the handlers, `access` says who may ask, `lookup_answers` has the
types, `openapi` describes them, `waiting_leads` searches Kafka, and `client` is for those who ask. `asgi` puts both
together.
"""
