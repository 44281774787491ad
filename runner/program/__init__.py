"""Programs of --command, which speak HKube's protocol: their connection and messages. Imported by serving."""
