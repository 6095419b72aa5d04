-- The two processes' roles in the database; run once, by the server's Entra administrator, in the database `geoworker`:
--
--   psql "host=HOST dbname=geoworker user=ADMIN sslmode=require" \
--        --set worker=geoworker-worker --set function=geoworker-function --file grants.sql
--
-- Both must be known to the server already (README.md: pgaadauth_create_principal). Tables belong to one role that both are
-- members of, so that whichever process starts first may apply migrations and the other may use what it made.

CREATE ROLE geoworker_owner NOLOGIN;
GRANT geoworker_owner TO :"worker", :"function";
GRANT CREATE ON DATABASE geoworker TO geoworker_owner;
ALTER ROLE :"worker" IN DATABASE geoworker SET role TO geoworker_owner;
ALTER ROLE :"function" IN DATABASE geoworker SET role TO geoworker_owner;
