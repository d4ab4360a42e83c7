// A database in one file. `sqlite make FILE ROWS` writes it; `sqlite ask FILE` asks for everything in it in several ways, only
// reading, and prints the answers.
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static sqlite3 *base;

static void fail(const char *what) {
    printf("failed: %s: %s\n", what, base ? sqlite3_errmsg(base) : "no database");
    exit(1);
}

static int print(void *unused, int columns, char **values, char **names) {
    (void)unused, (void)names;
    for (int i = 0; i < columns; i++) printf("%s%s", i ? "|" : "", values[i] ? values[i] : "NULL");
    puts("");
    return 0;
}

static void run(const char *words) {
    if (sqlite3_exec(base, words, print, 0, 0) != SQLITE_OK) fail(words);
}

static void make(const char *file, const char *rows) {
    char words[512];
    if (sqlite3_open(file, &base) != SQLITE_OK) fail("open");
    run("PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; BEGIN;"
        "CREATE TABLE items(id INTEGER PRIMARY KEY, kind INTEGER, name TEXT, body TEXT);"
        "CREATE TABLE kinds(kind INTEGER PRIMARY KEY, title TEXT);");
    // Numbers that look random, by a generator of Lehmer's.
    snprintf(words, sizeof words,
             "WITH RECURSIVE n(i, r) AS (SELECT 1, 12345 UNION ALL SELECT i + 1, r * 48271 %% 2147483647 FROM n WHERE i < %s)"
             "INSERT INTO items SELECT i, r %% 97, printf('name-%%010d', r),"
             "  substr(replace(hex(zeroblob(150)), '00', printf('%%x', r)), 1, 600) FROM n;", rows);
    run(words);
    run("WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 96)"
        "INSERT INTO kinds SELECT i, 'kind ' || i FROM n;"
        "CREATE INDEX by_name ON items(name); COMMIT;");
}

static void ask(const char *file) {
    char uri[512];
    snprintf(uri, sizeof uri, "file:%s?immutable=1", file);
    if (sqlite3_open_v2(uri, &base, SQLITE_OPEN_READONLY | SQLITE_OPEN_URI, 0) != SQLITE_OK) fail("open");
    run("PRAGMA temp_store=MEMORY; PRAGMA cache_size=-2000;");
    run("SELECT count(*), sum(length(body)), min(name), max(name) FROM items");
    // By index, all over the file.
    run("WITH RECURSIVE n(i, r) AS (SELECT 1, 777 UNION ALL SELECT i + 1, r * 48271 % 2147483647 FROM n WHERE i < 3000)"
        "SELECT count(*), sum(kind), sum(unicode(substr(body, 100))) FROM n JOIN items ON id = 1 + r % (SELECT max(id) FROM items)");
    run("SELECT title, count(*), sum(id) FROM items JOIN kinds USING (kind) GROUP BY title ORDER BY 2 DESC, 1 LIMIT 5");
    run("SELECT id, name, substr(body, 1, 20) FROM items ORDER BY substr(body, 7), id LIMIT 5");
    run("SELECT count(*) FROM (SELECT name FROM items GROUP BY name HAVING count(*) = 1)");
    run("PRAGMA integrity_check");
    run("SELECT count(*) FROM items WHERE body LIKE '%abc%'");
    if (sqlite3_exec(base, "DELETE FROM kinds", 0, 0, 0) != SQLITE_READONLY) fail("it can be changed");
}

int main(int count, char **words) {
    if (count == 4 && !strcmp(words[1], "make")) make(words[2], words[3]);
    else if (count == 3 && !strcmp(words[1], "ask")) ask(words[2]);
    else return fputs("usage: sqlite make FILE ROWS | sqlite ask FILE\n", stderr), 2;
    return sqlite3_close(base) != SQLITE_OK;
}
