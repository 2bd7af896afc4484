//! API tokens: found by their hash, ended once, last use noted.

use muster::model::{Role, TokenId};
use muster::store::{StoreError, TokenRow};

use crate::support::db::TestDb;
use crate::support::rows::{DAY, MINUTE, token};

both_databases! {
    async fn a_token_reads_back_by_hash_and_by_id(db: TestDb) {
        let row = TokenRow {
            role: Role::Operator,
            scope: Some("fleet".to_owned()),
            expires_at: Some(db.now().plus(DAY)),
            ..token(&db)
        };
        let mut tx = db.write().await;
        tx.insert_token(&row).await.unwrap();
        tx.commit().await.unwrap();

        let mut read = db.read().await;
        let found = read.token_by_hash(row.hash).await.unwrap().unwrap();
        assert_eq!((found.id, found.role, found.expires_at), (row.id, Role::Operator, row.expires_at));
        assert_eq!((found.scope.as_deref(), found.created_by.as_str()), (Some("fleet"), "init"));
        assert_eq!(read.token(row.id).await.unwrap().unwrap().hash, row.hash);
        assert!(read.token_by_hash(db.digest()).await.unwrap().is_none());
        assert!(read.token(db.id(TokenId::new)).await.unwrap().is_none());
    }

    async fn two_tokens_with_one_hash_are_a_conflict(db: TestDb) {
        let row = token(&db);
        let mut tx = db.write().await;
        tx.insert_token(&row).await.unwrap();
        let twin = TokenRow { id: db.id(TokenId::new), ..row };
        assert!(matches!(tx.insert_token(&twin).await, Err(StoreError::Conflict(_))));
    }

    async fn tokens_are_listed_newest_first(db: TestDb) {
        let mut tx = db.write().await;
        let older = token(&db);
        db.clock.advance(MINUTE);
        let newer = token(&db);
        for row in [&older, &newer] {
            tx.insert_token(row).await.unwrap();
        }
        let ids = |rows: Vec<TokenRow>| rows.iter().map(|token| token.id).collect::<Vec<_>>();
        assert_eq!(ids(tx.tokens(None, 10).await.unwrap()), [newer.id, older.id]);
        assert_eq!(ids(tx.tokens(None, 1).await.unwrap()), [newer.id]);
        assert_eq!(ids(tx.tokens(Some(newer.id), 10).await.unwrap()), [older.id]);
        assert!(tx.tokens(Some(older.id), 10).await.unwrap().is_empty());
    }

    async fn a_token_ends_once_and_stays_for_the_record(db: TestDb) {
        let row = token(&db);
        let mut tx = db.write().await;
        tx.insert_token(&row).await.unwrap();
        assert!(tx.revoke_token(row.id, db.now()).await.unwrap());
        db.clock.advance(MINUTE);
        assert!(!tx.revoke_token(row.id, db.now()).await.unwrap(), "ended already");
        assert!(!tx.revoke_token(db.id(TokenId::new), db.now()).await.unwrap(), "no such token");
        assert_eq!(tx.token(row.id).await.unwrap().unwrap().revoked_at, Some(row.created_at));
    }

    async fn the_last_use_never_moves_backwards(db: TestDb) {
        let (a, b) = (token(&db), token(&db));
        let mut tx = db.write().await;
        tx.insert_token(&a).await.unwrap();
        tx.insert_token(&b).await.unwrap();
        let later = db.now().plus(MINUTE);
        tx.touch_tokens(&[(a.id, later), (b.id, db.now())]).await.unwrap();
        tx.touch_tokens(&[(a.id, db.now())]).await.unwrap();
        assert_eq!(tx.token(a.id).await.unwrap().unwrap().last_used_at, Some(later));
        assert_eq!(tx.token(b.id).await.unwrap().unwrap().last_used_at, Some(db.now()));
    }
}
