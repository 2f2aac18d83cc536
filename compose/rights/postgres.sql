-- The accounts of the ledger, for `compose/rights/apply postgres` and for a new cluster of compose.yaml. May be run again at
-- any time, as a superuser, in the ledger's database; passwords come from the environment of psql (15 or newer).
--
-- ffpool_owner       owns the tables; `ffpool-dispatcher migrate` uses it, and nothing that runs for long
-- ffpool_dispatcher  changes rows, never tables; `migrate` gives it its rights, table by table
-- ffpool_doctor      `ffpool doctor`: reads which migrations are applied, and no row of anybody's
\set ON_ERROR_STOP on
-- Not into the server's log, should a statement fail.
SET log_statement = 'none';
SET log_min_error_statement = 'panic';
\getenv owner_password POSTGRES_OWNER_PASSWORD
\getenv dispatcher_password POSTGRES_DISPATCHER_PASSWORD
\getenv doctor_password POSTGRES_DOCTOR_PASSWORD

BEGIN;
-- Roles are the whole cluster's: one of these at a time.
LOCK TABLE pg_catalog.pg_authid IN SHARE ROW EXCLUSIVE MODE;
SELECT format('CREATE ROLE %I', name)
FROM unnest(ARRAY['ffpool_owner', 'ffpool_dispatcher', 'ffpool_doctor']) AS name
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name)
\gexec
ALTER ROLE ffpool_owner LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS PASSWORD :'owner_password';
ALTER ROLE ffpool_dispatcher LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS PASSWORD :'dispatcher_password';
ALTER ROLE ffpool_doctor LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS PASSWORD :'doctor_password';

SELECT format('REVOKE ALL ON DATABASE %I FROM PUBLIC', current_database()),
       format('GRANT CONNECT ON DATABASE %I TO ffpool_owner, ffpool_dispatcher, ffpool_doctor', current_database())
\gexec
-- Up to Postgres 14 everybody may make tables here.
REVOKE ALL ON SCHEMA public FROM PUBLIC;
GRANT USAGE, CREATE ON SCHEMA public TO ffpool_owner;
GRANT USAGE ON SCHEMA public TO ffpool_dispatcher, ffpool_doctor;

-- What one account for everything made before becomes the owner's.
SELECT format('ALTER TABLE %s OWNER TO ffpool_owner', oid::regclass)
FROM pg_class
WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') AND relowner <> 'ffpool_owner'::regrole
ORDER BY relispartition
\gexec
SELECT format('ALTER FUNCTION %s OWNER TO ffpool_owner', oid::regprocedure)
FROM pg_proc
WHERE pronamespace = 'public'::regnamespace AND proowner <> 'ffpool_owner'::regrole
      AND NOT EXISTS (SELECT FROM pg_depend WHERE objid = pg_proc.oid AND deptype = 'e')
\gexec
COMMIT;
