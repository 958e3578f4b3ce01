-- Ask for jobs to be cancelled; the place of each that is live.
SELECT cancel FROM {schema}.cancel($1, $2)
