BEGIN TRANSACTION;
CREATE TABLE flags (
	key_id BIGINT NOT NULL, 
	since TEXT NOT NULL, 
	PRIMARY KEY (key_id)
);
CREATE TABLE history (
	seq INTEGER NOT NULL, 
	at TEXT NOT NULL, 
	policy TEXT, 
	event TEXT NOT NULL, 
	key_id BIGINT, 
	key_name TEXT, 
	generation INTEGER, 
	why TEXT NOT NULL, 
	hash TEXT NOT NULL, 
	PRIMARY KEY (seq)
);
INSERT INTO "history" VALUES(1,'2026-11-23T12:00:01.250000+00:00','ci','key.created',101,'ci-1',1,'Größe ✓ 1','sha256:6981a6a0a4f5ee4fd8899dddf64bce3c3ea909b34d4739008eccac91ec86e197');
INSERT INTO "history" VALUES(2,'2026-11-23T12:00:02.250000+00:00','ci','management_key.refused',102,'ci-2',2,'Größe ✓ 2','sha256:f8a3fdba326b87af130017a39726ffd03b92d120a564ece626e41b8f9c27f5a4');
INSERT INTO "history" VALUES(3,'2026-11-23T12:00:03.250000+00:00','ci','key.created',103,'ci-3',3,'Größe ✓ 3','sha256:70bc9a67f8760c919c93207b5136246dcd596ec0c50aa3c3948e8f3f1942b61e');
INSERT INTO "history" VALUES(4,'2026-11-23T12:00:04.250000+00:00',NULL,'management_key.refused',104,'ci-4',4,'Größe ✓ 4','sha256:1fb9eddc501a6517e6a884b27ee6aab6099c2dcb835d9efd2e7ddb22345894b9');
INSERT INTO "history" VALUES(5,'2026-11-23T12:00:05.250000+00:00','ci','key.created',105,'ci-5',5,'Größe ✓ 5','sha256:e095ffba490f75a0a2a9878c39f815902b5dc938ec0ade139eccfe0373dc2e22');
INSERT INTO "history" VALUES(6,'2026-11-23T12:00:06.250000+00:00','ci','management_key.refused',106,'ci-6',6,'Größe ✓ 6','sha256:dd9cdfbbcbe625774984fbd1ae9c1fe509f289aeb6e92913b1a9df6172812f01');
INSERT INTO "history" VALUES(7,'2026-11-23T12:00:07.250000+00:00','ci','key.created',107,'ci-7',7,'Größe ✓ 7','sha256:d40788bfdb365cf518b3f4bbf6ff3b82fce56e34fdeaf6bcd3a1c504fb5a8da0');
INSERT INTO "history" VALUES(8,'2026-11-23T12:00:08.250000+00:00','ci','management_key.refused',108,'ci-8',8,'Größe ✓ 8','sha256:463a1343366283125be14898a2c23fd10c01f3e398dac23a4f02221a04c8ffe7');
INSERT INTO "history" VALUES(9,'2026-11-23T12:00:09.250000+00:00','ci','key.created',109,'ci-9',9,'Größe ✓ 9','sha256:a65cc761bbdb5f66aeea6ea03a052e5609f9d8a329ec47e1997ed825740a5a52');
INSERT INTO "history" VALUES(10,'2026-11-23T12:00:10.250000+00:00','ci','management_key.refused',110,'ci-10',10,'Größe ✓ 10','sha256:4b7286a6ddf06d17e9c19188504940e0ab4db3d0993882b403b4cdba383fa040');
CREATE TABLE meta (
	name TEXT NOT NULL, 
	value TEXT NOT NULL, 
	PRIMARY KEY (name)
);
INSERT INTO "meta" VALUES('schema','1');
CREATE TABLE notices (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	sink TEXT NOT NULL, 
	at TEXT NOT NULL, 
	event TEXT NOT NULL
);
INSERT INTO "notices" VALUES(1,'ops','2026-11-23T12:00:02.250000+00:00','{"name":"management_key.refused","why":"Größe ✓ 2","policy":"ci","generation":2,"key_id":102,"key_name":"ci-2","notify":true}');
CREATE TABLE orders (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	policy TEXT, 
	kind TEXT NOT NULL, 
	at TEXT NOT NULL, 
	key_id BIGINT, 
	leaked BOOLEAN NOT NULL, 
	now BOOLEAN NOT NULL, 
	unmanaged BOOLEAN NOT NULL, 
	closed_at TEXT
);
INSERT INTO "orders" VALUES(1,'ci','rotate','2026-11-23T12:00:00.250000+00:00',NULL,0,0,0,'2026-11-23T12:00:00.250000+00:00');
CREATE TABLE outlooks (
	policy TEXT NOT NULL, 
	document TEXT NOT NULL, 
	PRIMARY KEY (policy)
);
CREATE TABLE records (
	policy TEXT NOT NULL, 
	version INTEGER NOT NULL, 
	document TEXT NOT NULL, 
	PRIMARY KEY (policy)
);
CREATE TABLE uses (
	key_id BIGINT NOT NULL, 
	used_at TEXT NOT NULL, 
	addresses TEXT NOT NULL, 
	PRIMARY KEY (key_id, used_at)
);
CREATE INDEX ix_history_policy ON history (policy);
CREATE INDEX ix_notices_sink ON notices (sink);
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('notices',1);
INSERT INTO "sqlite_sequence" VALUES('orders',1);
COMMIT;
