"""From files and tables to what the networks see: reading, audit, decoding, pipelines."""
