-- From 0.1.0 to 0.2.0: what `pgrain/cli/upgrade.py` cannot find by itself, before what it adds.
-- Who pointed a model at its table is NULL for those that are there: created_by.
ALTER TABLE pgrain.model ADD COLUMN pointed_by name;
ALTER TABLE pgrain.model ALTER COLUMN pointed_by SET DEFAULT current_user;
ALTER TABLE pgrain.worker ADD COLUMN uid bigint;
