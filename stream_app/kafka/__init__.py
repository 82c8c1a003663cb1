"""Everything that speaks aiokafka: connecting, reading, writing, transactions.

`connection` makes every client but the `consumer`; each is a `bounded_client`, and `diagnosis` says
why none connects. Reading: `readers`; `groups` builds on it. Writing: `producers`. The state of a
partition: `transactional_state`, which builds on the package `takeover`. Topics and rights:
`topics`, `rights`. What aiokafka lacks: `protocol`, `oauth`, `clock`.
"""
