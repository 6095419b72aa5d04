-- How often people asked for a message again: one that comes back refused is told from one that was given up once.

ALTER TABLE app.outbox ADD COLUMN replays integer NOT NULL DEFAULT 0;
