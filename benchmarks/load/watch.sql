SELECT ask('watch against query', 0, statement_of('watch against query', 0));
