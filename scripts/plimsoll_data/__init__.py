"""Documents in the files of the ecosystem to llm.c's token shards: what scripts/prepare_data.py is made of."""
