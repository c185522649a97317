//! The stored relay plan of a swarm, and what its members need to be told.

use std::collections::BTreeMap;

use protocol::rest::{DeliveryState, ReleaseState, Wave};
use protocol::ws::Peer;
use protocol::{Amount, BitsPerSecond, Blake3, DeliveryId, EditionId, GroupId, PublicKey, ReleaseId, SwarmId, TerminalId, UserId};
use rules::relay_plan::PlannedGroup;
use time::OffsetDateTime;
use uuid::Uuid;

use super::budget::BudgetId;
use super::conversions::{amount, bigint, byte_array, integer, small, unsigned};
use super::releases::{state_of, wave_of};
use super::{Store, StoreError};

/// What does not change about a swarm once its release exists, and its release's present state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SwarmFacts {
    pub swarm_id: SwarmId,
    pub release_id: ReleaseId,
    pub edition_id: EditionId,
    /// What its origin bytes are counted in.
    pub budget_id: BudgetId,
    /// Whether it is a download: one receiver, and sources that hold everything.
    pub on_demand: bool,
    pub state: ReleaseState,
    /// When bytes begin to move.
    pub begins_at: OffsetDateTime,
    pub deadline_at: OffsetDateTime,
    /// Those in which chunks are copied; the first one is the beginning. A sealed release has one.
    pub waves: Vec<Wave>,
    pub sealed: Option<SealedFacts>,
}

/// What a sealed release adds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedFacts {
    /// The BLAKE3 hash of the sealed manifest; none until every chunk was sealed.
    pub manifest: Option<Blake3>,
    /// When the terminals of each wave of the book are given the key.
    pub keys: Vec<Wave>,
}

impl SwarmFacts {
    /// The rank that a wave of the book belongs to.
    pub fn rank_of(&self, wave: u32) -> u32 {
        let waves = self.sealed.as_ref().map_or(&self.waves, |sealed| &sealed.keys);
        usize::try_from(wave).ok().and_then(|wave| waves.get(wave)).map_or(1, |wave| wave.rank)
    }
}

/// The stored groups of a swarm, in the order (wave, position), and the owners of all members.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StoredPlan {
    pub groups: Vec<PlannedGroup>,
    pub owners: BTreeMap<TerminalId, UserId>,
    /// The wave that each member was awarded, whenever its group copies.
    pub awarded: BTreeMap<TerminalId, u32>,
}

/// A swarm that a terminal is a planned member of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Membership {
    pub swarm_id: SwarmId,
    /// How many groups the swarm's plan has, which rises with each wave; a download's epoch.
    pub groups: u64,
}

/// Where a delivery stands, for the terminal that it is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeliveryStanding {
    pub swarm_id: SwarmId,
    pub delivery_id: DeliveryId,
    pub release_state: ReleaseState,
    pub state: DeliveryState,
    pub charged: Amount,
    /// What the terminal was paid so far in the swarm as a relay.
    pub earned: Amount,
}

#[derive(sqlx::FromRow)]
struct MemberRow {
    group_id: Uuid,
    wave: i32,
    position: i32,
    awarded: i32,
    parent_id: Option<Uuid>,
    root: bool,
    delivery_id: Uuid,
    terminal_id: Uuid,
    user_id: Uuid,
    public_key: Vec<u8>,
    up_bps: i64,
    primary_terminal_id: Option<Uuid>,
}

#[derive(sqlx::FromRow)]
struct FactsRow {
    release_id: Uuid,
    edition_id: Vec<u8>,
    budget_id: Uuid,
    on_demand: bool,
    state: String,
    begins_at: OffsetDateTime,
    starts_at: OffsetDateTime,
    deadline_at: OffsetDateTime,
    sealed: bool,
    sealed_manifest: Option<Vec<u8>>,
}

impl Store {
    /// The swarms of a release, in its order.
    ///
    /// # Errors
    /// The database fails.
    pub async fn swarms_of(&self, release_id: ReleaseId) -> Result<Vec<SwarmId>, StoreError> {
        let rows: Vec<Uuid> = sqlx::query_scalar("SELECT swarm_id FROM release_editions WHERE release_id = $1 ORDER BY position")
            .bind(release_id.0)
            .fetch_all(&self.pool)
            .await?;
        Ok(rows.into_iter().map(SwarmId).collect())
    }

    /// # Errors
    /// `not_found`, or the database fails.
    pub async fn swarm_facts(&self, swarm_id: SwarmId) -> Result<SwarmFacts, StoreError> {
        let row: Option<FactsRow> = sqlx::query_as(
            "SELECT release_id, edition_id, budget_id, on_demand, state, begins_at, starts_at, deadline_at, sealed, sealed_manifest FROM release_editions
             JOIN releases ON releases.id = release_id WHERE swarm_id = $1",
        )
        .bind(swarm_id.0)
        .fetch_optional(&self.pool)
        .await?;
        let row = row.ok_or(StoreError::NotFound("swarm"))?;
        let waves: Vec<(i32, i64)> = sqlx::query_as("SELECT rank, delay_s FROM release_waves WHERE release_id = $1 ORDER BY wave")
            .bind(row.release_id)
            .fetch_all(&self.pool)
            .await?;
        let waves = waves.into_iter().map(|(rank, delay_s)| wave_of(row.starts_at, rank, delay_s)).collect::<Result<Vec<Wave>, _>>()?;
        let (waves, sealed) = if row.sealed {
            let manifest = row.sealed_manifest.map(|hash| byte_array(&hash).map(Blake3)).transpose()?;
            (vec![Wave { rank: 1, opens_at: row.begins_at }], Some(SealedFacts { manifest, keys: waves }))
        } else {
            (waves, None)
        };
        Ok(SwarmFacts {
            swarm_id,
            release_id: ReleaseId(row.release_id),
            edition_id: EditionId(byte_array(&row.edition_id)?),
            budget_id: BudgetId(row.budget_id),
            on_demand: row.on_demand,
            state: state_of(&row.state)?,
            begins_at: row.begins_at,
            deadline_at: row.deadline_at,
            waves,
            sealed,
        })
    }

    /// What a release's origin bytes are counted in.
    ///
    /// # Errors
    /// `not_found`, or the database fails.
    pub async fn budget_of(&self, release_id: ReleaseId) -> Result<BudgetId, StoreError> {
        let id: Option<Uuid> =
            sqlx::query_scalar("SELECT budget_id FROM releases WHERE id = $1").bind(release_id.0).fetch_optional(&self.pool).await?;
        Ok(BudgetId(id.ok_or(StoreError::NotFound("release"))?))
    }

    /// Whether some terminal of an earlier wave has verified a chunk.
    ///
    /// # Errors
    /// The database fails.
    pub async fn has_earlier_holder(&self, swarm_id: SwarmId, wave: u32) -> Result<bool, StoreError> {
        Ok(sqlx::query_scalar("SELECT EXISTS (SELECT FROM deliveries WHERE swarm_id = $1 AND wave < $2 AND verified_chunks > 0)")
            .bind(swarm_id.0)
            .bind(integer(wave)?)
            .fetch_one(&self.pool)
            .await?)
    }

    /// Whether a terminal is a member of a swarm's plan.
    ///
    /// # Errors
    /// The database fails.
    pub async fn is_planned(&self, swarm_id: SwarmId, terminal: TerminalId) -> Result<bool, StoreError> {
        Ok(sqlx::query_scalar(
            "SELECT EXISTS (SELECT FROM deliveries JOIN swarm_group_members ON delivery_id = deliveries.id WHERE terminal_id = $1 AND swarm_id = $2)
                 OR EXISTS (SELECT FROM download_sources WHERE terminal_id = $1 AND swarm_id = $2)",
        )
        .bind(terminal.0)
        .bind(swarm_id.0)
        .fetch_one(&self.pool)
        .await?)
    }

    /// The plan of all waves so far.
    ///
    /// # Errors
    /// The database fails.
    pub async fn stored_plan(&self, swarm_id: SwarmId) -> Result<StoredPlan, StoreError> {
        let rows: Vec<MemberRow> = sqlx::query_as(
            "SELECT swarm_groups.id AS group_id, swarm_groups.wave, swarm_groups.position, deliveries.wave AS awarded, parent_id, root, delivery_id, terminal_id, deliveries.user_id, public_key,
                 coalesce(swarm_group_members.up_bps, terminals.up_bps) AS up_bps, primary_terminal_id
             FROM swarm_groups
             JOIN swarm_group_members ON swarm_group_members.group_id = swarm_groups.id
             JOIN deliveries ON deliveries.id = delivery_id
             JOIN terminals ON terminals.id = terminal_id
             WHERE swarm_groups.swarm_id = $1
             ORDER BY swarm_groups.wave, swarm_groups.position, swarm_group_members.position",
        )
        .bind(swarm_id.0)
        .fetch_all(&self.pool)
        .await?;
        let mut plan = StoredPlan::default();
        for row in rows {
            let peer = peer_of(row.delivery_id, row.terminal_id, &row.public_key, row.up_bps)?;
            plan.owners.insert(peer.terminal_id, UserId(row.user_id));
            plan.awarded.insert(peer.terminal_id, small(row.awarded)?);
            if plan.groups.last().is_none_or(|group| group.id.0 != row.group_id) {
                plan.groups.push(PlannedGroup {
                    id: GroupId(row.group_id),
                    wave: small(row.wave)?,
                    position: small(row.position)?,
                    parent: row.parent_id.map(GroupId),
                    root: row.root,
                    members: Vec::new(),
                    primaries: Vec::new(),
                });
            }
            if let Some(group) = plan.groups.last_mut() {
                group.members.push(peer);
                group.primaries.extend(row.primary_terminal_id.map(TerminalId));
            }
        }
        for group in &mut plan.groups {
            group.primaries.sort_unstable();
        }
        Ok(plan)
    }

    /// Stores the groups of a new wave with the lines that they were planned with; `false` if that wave was stored before, by whomever, and nothing was
    /// changed. A downlink that `downs` does not have is not known.
    ///
    /// # Errors
    /// The database fails.
    pub async fn store_wave(
        &self,
        swarm_id: SwarmId,
        wave: u32,
        groups: &[PlannedGroup],
        downs: &BTreeMap<DeliveryId, BitsPerSecond>,
    ) -> Result<bool, StoreError> {
        let mut tx = self.begin().await?;
        // Two instances that plan the same wave stand in line here.
        sqlx::query("SELECT FROM release_editions WHERE swarm_id = $1 FOR UPDATE").bind(swarm_id.0).execute(&mut *tx).await?;
        let known: bool = sqlx::query_scalar("SELECT EXISTS (SELECT FROM swarm_groups WHERE swarm_id = $1 AND wave >= $2)")
            .bind(swarm_id.0)
            .bind(integer(wave)?)
            .fetch_one(&mut *tx)
            .await?;
        if known {
            return Ok(false);
        }
        for group in groups {
            sqlx::query("INSERT INTO swarm_groups (id, swarm_id, wave, position, parent_id, root) VALUES ($1, $2, $3, $4, $5, $6)")
                .bind(group.id.0)
                .bind(swarm_id.0)
                .bind(integer(group.wave)?)
                .bind(integer(group.position)?)
                .bind(group.parent.map(|parent| parent.0))
                .bind(group.root)
                .execute(&mut *tx)
                .await?;
            let deliveries: Vec<Uuid> = group.members.iter().map(|member| member.delivery_id.0).collect();
            let ups = group.members.iter().map(|member| bigint(member.up.0)).collect::<Result<Vec<_>, _>>()?;
            let down = |member: &Peer| downs.get(&member.delivery_id).map_or(0, |down| down.0);
            let downs = group.members.iter().map(|member| bigint(down(member))).collect::<Result<Vec<_>, _>>()?;
            sqlx::query(
                "INSERT INTO swarm_group_members (delivery_id, group_id, position, up_bps, down_bps)
                 SELECT delivery_id, $2, (position - 1)::integer, up_bps, down_bps
                 FROM unnest($1::uuid[], $3::bigint[], $4::bigint[]) WITH ORDINALITY AS member (delivery_id, up_bps, down_bps, position)",
            )
            .bind(deliveries)
            .bind(group.id.0)
            .bind(ups)
            .bind(downs)
            .execute(&mut *tx)
            .await?;
        }
        tx.commit().await?;
        Ok(true)
    }

    /// The swarms that are planned or running with this terminal in them.
    ///
    /// # Errors
    /// The database fails.
    pub async fn memberships_of(&self, terminal: TerminalId) -> Result<Vec<Membership>, StoreError> {
        let rows: Vec<(Uuid, i64)> = sqlx::query_as(
            "SELECT deliveries.swarm_id,
                 coalesce(downloads.epoch, (SELECT count(*) FROM swarm_groups WHERE swarm_groups.swarm_id = deliveries.swarm_id))
             FROM deliveries
             JOIN swarm_group_members ON swarm_group_members.delivery_id = deliveries.id
             JOIN releases ON releases.id = deliveries.release_id
             LEFT JOIN downloads ON downloads.swarm_id = deliveries.swarm_id
             WHERE terminal_id = $1 AND releases.state IN ('closed', 'live')
             UNION
             SELECT swarm_id, epoch FROM download_sources
             JOIN downloads USING (swarm_id) JOIN release_editions USING (swarm_id) JOIN releases ON releases.id = release_id
             WHERE terminal_id = $1 AND dropped_at IS NULL AND releases.state = 'live'
             ORDER BY 1",
        )
        .bind(terminal.0)
        .fetch_all(&self.pool)
        .await?;
        rows.into_iter().map(|(swarm_id, groups)| Ok(Membership { swarm_id: SwarmId(swarm_id), groups: unsigned(groups)? })).collect()
    }

    /// Where the terminal's deliveries stand: those of running releases, and those that were settled after `since`.
    ///
    /// # Errors
    /// The database fails.
    pub async fn standings_of(&self, terminal: TerminalId, since: OffsetDateTime) -> Result<Vec<DeliveryStanding>, StoreError> {
        let rows: Vec<(Uuid, Uuid, String, String, i64, i64)> = sqlx::query_as(
            "SELECT deliveries.swarm_id, deliveries.id, releases.state, deliveries.state, charged,
                 (SELECT coalesce(sum(earned), 0)::bigint FROM delivery_shares JOIN deliveries served ON served.id = delivery_id
                  WHERE source = $1 AND served.swarm_id = deliveries.swarm_id)
             FROM deliveries JOIN releases ON releases.id = deliveries.release_id
             WHERE terminal_id = $1 AND (releases.state IN ('closed', 'live') OR deliveries.settled_at > $2)
             ORDER BY deliveries.id",
        )
        .bind(terminal.0)
        .bind(since)
        .fetch_all(&self.pool)
        .await?;
        rows.into_iter()
            .map(|(swarm_id, delivery_id, release, delivery, charged, earned)| {
                Ok(DeliveryStanding {
                    swarm_id: SwarmId(swarm_id),
                    delivery_id: DeliveryId(delivery_id),
                    release_state: state_of(&release)?,
                    state: super::deliveries::state_of(&delivery)?,
                    charged: amount(charged)?,
                    earned: amount(earned)?,
                })
            })
            .collect()
    }

    /// What terminals were paid so far in a swarm as relays.
    ///
    /// # Errors
    /// The database fails.
    pub async fn earned_in(&self, swarm_id: SwarmId, terminals: &[TerminalId]) -> Result<BTreeMap<TerminalId, Amount>, StoreError> {
        let ids: Vec<Uuid> = terminals.iter().map(|terminal| terminal.0).collect();
        let rows: Vec<(Uuid, i64)> = sqlx::query_as(
            "SELECT source, sum(earned)::bigint FROM delivery_shares JOIN deliveries ON deliveries.id = delivery_id
             WHERE swarm_id = $1 AND source = ANY ($2) GROUP BY source",
        )
        .bind(swarm_id.0)
        .bind(ids)
        .fetch_all(&self.pool)
        .await?;
        rows.into_iter().map(|(terminal, earned)| Ok((TerminalId(terminal), amount(earned)?))).collect()
    }

    /// Pending deliveries of a release, those after `after` in the order of their ids.
    ///
    /// # Errors
    /// The database fails.
    pub async fn pending_deliveries(
        &self,
        release_id: ReleaseId,
        after: Option<DeliveryId>,
        limit: u32,
    ) -> Result<Vec<(DeliveryId, SwarmId)>, StoreError> {
        let rows: Vec<(Uuid, Uuid)> = sqlx::query_as(
            "SELECT id, swarm_id FROM deliveries
             WHERE state = 'pending' AND release_id = $1 AND ($2::uuid IS NULL OR id > $2) ORDER BY id LIMIT $3",
        )
        .bind(release_id.0)
        .bind(after.map(|id| id.0))
        .bind(i64::from(limit))
        .fetch_all(&self.pool)
        .await?;
        Ok(rows.into_iter().map(|(delivery_id, swarm_id)| (DeliveryId(delivery_id), SwarmId(swarm_id))).collect())
    }

    /// Deliveries of which every chunk was received and which nobody has settled, of all releases: whoever recorded the last receipt is about to settle
    /// it, or has died. Not those that are sealed still. Those after `after` in the order of their ids.
    ///
    /// # Errors
    /// The database fails.
    pub async fn unsettled_deliveries(
        &self,
        after: Option<DeliveryId>,
        limit: u32,
        now: OffsetDateTime,
    ) -> Result<Vec<(DeliveryId, SwarmId)>, StoreError> {
        let rows: Vec<(Uuid, Uuid)> = sqlx::query_as(
            "SELECT id, swarm_id FROM deliveries
             WHERE state = 'pending' AND completed_at IS NOT NULL AND ($1::uuid IS NULL OR id > $1) AND NOT is_unopened(release_id, wave, $3)
             ORDER BY id LIMIT $2",
        )
        .bind(after.map(|id| id.0))
        .bind(i64::from(limit))
        .bind(now)
        .fetch_all(&self.pool)
        .await?;
        Ok(rows.into_iter().map(|(delivery_id, swarm_id)| (DeliveryId(delivery_id), SwarmId(swarm_id))).collect())
    }
}

pub(super) fn peer_of(delivery_id: Uuid, terminal_id: Uuid, public_key: &[u8], up_bps: i64) -> Result<Peer, StoreError> {
    Ok(Peer {
        terminal_id: TerminalId(terminal_id),
        public_key: PublicKey(byte_array(public_key)?),
        delivery_id: DeliveryId(delivery_id),
        up: BitsPerSecond(unsigned(up_bps)?),
    })
}
