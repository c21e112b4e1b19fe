"""Every row of the threat model is held by tests, which are named here; and every test that is named is there."""

import ast
import re
from functools import cache
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).resolve().parents[1]
PAGE: Final = ROOT / "docs/threat-model.md"
_ROW: Final = re.compile(r"^\| ?(.*?) \| (.+?) \| (.+) \|$", re.MULTILINE)

# How a row begins (who: could), and what holds it. A test that shows that something is not prevented holds a row as
# well as one that shows that it is: either way the row has to change with the product.
HELD: Final[dict[str, tuple[str, ...]]] = {
    "reads the store, a dump or a backup: read secrets": (
        "product/test_canaries.py::test_the_store_holds_ciphertext",
        "product/test_on_etcd.py::test_the_store_holds_ciphertext_in_etcd",
        "keyring/test_stored.py::test_a_keyring_is_made_with_its_wraps",
        "backup/test_restoring.py::test_nothing_of_a_secret_is_in_a_copy",
    ),
    "reads the store, a dump or a backup: learn names": (
        "product/test_on_etcd.py::test_the_store_holds_ciphertext_in_etcd",
        "backup/test_form.py::test_it_can_be_read_without_us",
    ),
    "writes the store: swap two secrets": (
        "jose/test_jwe.py::test_tampering",
        "jose/test_jwe.py::test_every_single_bit_counts",
        "jose/test_jwe.py::test_every_cut_counts",
        "product/test_faults.py::test_a_tampered_row_fails_closed",
    ),
    "writes the store: put back an older value": (
        "product/test_who_writes_the_store.py::test_an_older_value_of_the_same_name_is_read_as_if_it_were_the_newest",
    ),
    "writes the store: delete a secret": (
        "product/test_who_writes_the_store.py::test_a_secret_that_was_deleted_in_the_store_is_not_found",
    ),
    "writes the store: plant an API key": (
        "service/test_apikeys.py::test_a_record_of_another_id_opens_nothing",
        "service/test_apikeys.py::test_a_damaged_record_opens_nothing",
        "product/test_evidence.py::test_a_tampered_key_record_leaves_a_line",
        "keyring/test_keys_in_their_place.py::test_who_has_one_data_key_makes_no_api_key",
    ),
    "writes the store: put back the record of a revoked API key": (
        "product/test_who_writes_the_store.py::test_the_record_of_a_revoked_api_key_opens_when_it_is_put_back",
        "keyring/test_enrolment.py::test_a_document_that_is_put_back_opens_until_the_root_key_is_rotated",
    ),
    "writes the store: put an older keyring back": (
        "keyring/test_seen.py::test_every_worker_refuses_it_and_every_start",
        "keyring/test_seen.py::test_a_person_accepts_it",
        "keyring/test_seen.py::test_where_the_file_cannot_be_written_the_workers_know_it_still",
    ),
    "writes the store: plant or edit a plain record": (
        "product/test_who_writes_the_store.py::test_plain_records_and_containers_are_whoevers_who_writes_the_store",
    ),
    "writes the store: put back a rule that was removed": (
        "access/test_rulebook.py::test_a_rule_that_is_put_back_or_removed_in_the_store",
        "access/test_rulebook.py::test_a_damaged_rule_can_be_mended",
    ),
    "writes the store: edit the key usage index": (
        "keyring/test_retire.py::test_what_is_needed_is_not_destroyed",
        "keyring/test_usage_index.py::test_damage_is_found_and_repaired",
    ),
    "writes the store: put a whole keyring of their own": (
        "product/test_faults.py::test_a_wrong_root_key_is_refused",
        "keyring/test_starts.py::test_what_stops_a_start",
        "keyring/test_holder.py::test_wrong_keys_are_counted_and_slowed",
        "keyring/test_endorsement.py::test_a_rotation_is_followed_and_a_planted_keyring_is_not",
    ),
    "writes the store: copy another machine's `allowed` flag": (
        "keyring/test_machines.py::test_flags_that_do_not_open",
        "keyring/test_enrolment.py::test_one_bad_row_hides_no_other",
    ),
    "has one data key, and writes the store: write records": (
        "keyring/test_keys_in_their_place.py::test_every_key_under_every_prefix",
        "keyring/test_keys_in_their_place.py::test_formerly_is_until_all_is_re_encrypted",
        "keyring/test_keys_in_their_place.py::test_who_has_one_data_key_makes_no_api_key",
    ),
    "writes a [backup](backup.md): swap two secrets": (
        "backup/test_restoring.py::test_every_secret_is_opened_before_anything_is_written",
    ),
    "writes a [backup](backup.md): edit a plain record": (
        "product/test_who_writes_the_store.py::test_a_plain_record_in_a_backup_can_be_edited",
    ),
    "copies an SQLite file without its log, or empties the store: ": (
        "deploy/test_backup_command.py::test_a_copy_without_the_log",
        "deploy/test_backup_command.py::test_a_store_that_is_gone",
        "deploy/test_backup_command.py::test_another_store_beside_it",
        "deploy/test_backup_command.py::test_records_that_moved_are_not_looked_for_where_they_were",
    ),
    "reads `secrets.key` (or `machine.key`) and the store: read everything": (
        "keyring/test_rootkey.py::test_refused_files",
        "keyring/test_rootkey.py::test_owners_and_modes",
        "keyring/test_machine_key.py::test_files_that_are_refused",
        "deploy_units/test_systemd_units.py::test_the_service_keeps_its_files_where_its_unit_makes_room",
        "keyring/test_starts.py::test_a_store_without_a_wrap_for_a_file_starts_locked",
    ),
    "reads `secrets.key` only: nothing": (
        "product/test_who_writes_the_store.py::test_the_key_file_alone_opens_nothing",
    ),
    "has one unlock key, or enough shares: open the store": (
        "product/test_keys_command.py::test_a_store_comes_back_elsewhere",
        "product/test_keys_command.py::test_two_calls_rotate_it",
        "keyring/test_unlock.py::test_any_shares_that_are_enough_give_the_key",
    ),
    "has fewer shares than are needed: nothing": (
        "keyring/test_unlock.py::test_too_few_shares",
        "keyring/test_holder.py::test_enough_shares_open_together",
    ),
    "may ask the service (any API key): lock, unlock, rotate": (
        "service/test_keys.py::test_a_key_for_secrets_does_none_of_it",
        "service/test_keys.py::test_what_is_allowed_is_recorded",
        "product/test_keys_locking.py::test_nobody_else_gets_at_keys",
    ),
    "may change one rule, and no more: give himself everything": (
        "service/test_rule_service.py::test_who_may_write_one_rule_can_give_himself_everything",
    ),
    "may change rules: shut all administrators out": (
        "access/test_rulebook.py::test_nobody_shuts_out_all_administrators",
        "access/test_rulebook.py::test_two_do_not_shut_out_all_together",
        "product/test_rules_served.py::test_the_last_way_in_stays",
    ),
    "may ask about rules, of himself: learn the rules of others": (
        "service/test_rule_service.py::test_who_has_no_access_learns_nothing_of_others_rules",
        "service/test_rule_service.py::test_a_case_is_explained",
        "service/test_rule_service.py::test_who_may_read_rules_alone_reads_no_record_of_others",
        "product/test_rules_served.py::test_somebody_learns_why",
    ),
    "is denied a name: reach it by another verb": (
        "service/test_rule_service.py::test_every_verb_gives_a_name_the_verdict_of_its_rule",
        "service/test_rule_service.py::test_a_batch_with_one_denied_name_is_refused_whole",
        "service/test_rule_service.py::test_no_other_spelling_gets_round_a_deny",
    ),
    "tries unlock keys: guess one": (
        "keyring/test_holder.py::test_wrong_keys_are_counted_and_slowed",
        "service/test_keys.py::test_wrong_keys_are_counted_slowed_and_written_down",
        "keyring/test_unlock.py::test_the_form_of_an_unlock_key",
    ),
    "had a machine key that was revoked: go on": (
        "keyring/test_enrolment.py::test_a_root_key_that_was_kept_opens_until_it_is_rotated",
    ),
    "has the root key and writes the store: make themselves an authorizer": (
        "keyring/test_enrolment.py::test_who_has_the_root_key_and_writes_the_store_is_an_authorizer",
        "deploy/test_machine_command.py::test_unexpected_authorizers",
    ),
    "writes the old place of a `read_through`: feed a service": (
        "product/test_reading_through.py::test_credentials_before_and_while_they_move",
        "product/test_migration_half_moved.py::test_a_platform_works_all_the_while",
    ),
    "writes the source during a migration: change what moves": (
        "migration/test_verify.py::test_an_edit_meanwhile",
        "migration/test_changed_in_between.py::test_changed_between_reading_and_scrubbing",
    ),
    "reads a plan, a report or the log of a migration: try guesses": (
        "product/test_migration_canaries.py::test_no_verb_tells_a_canary",
        "migration/test_plan.py::test_the_file",
        "migration/test_journal.py::test_it_is_sealed",
    ),
    "has a signed report: pass off an edited one": (
        "migration/test_signing.py::test_an_edit_is_noticed",
        "product/test_migration_story.py::test_a_kept_report_is_checked",
    ),
    "reads the store while a journal is kept: read what the source held": (
        "migration/test_journal.py::test_it_is_sealed",
        "migration/test_journal.py::test_to_forget",
    ),
    "on the machine, another user: connect to the socket": (
        "deploy/test_up.py::test_what_it_makes_is_private",
        "product/test_custodia_contract.py::test_credentials",
        "service/test_who_asks.py::test_no_pair_is_none",
        "deploy_units/test_systemd_units.py::test_only_those_who_may_reach_the_socket",
    ),
    "on the machine, another user: change what is believed": (
        "deploy/test_look.py::test_the_check_says_what_the_start_would",
        "deploy/test_look.py::test_whatever_says_settings_is_the_operators",
        "service/test_reach.py::test_a_file_of_another_user_is_not_believed",
        "service/test_reach.py::test_a_file_that_is_mounted_by_itself_is_believed",
    ),
    "is the service's user: lead a command of root's": (
        "service/test_told_acts.py::test_a_link_in_the_services_directory_gives_away_nothing",
        "service/test_told_acts.py::test_roots_offline_log_is_the_services",
    ),
    "on the machine, the same user: read keys or secrets from memory": (
        "deploy/test_up_hardened.py::test_every_process_is_closed",
        "deploy/test_up_hardened.py::test_there_is_no_page_before_the_process_is_closed",
        "service/test_hygiene.py::test_others_of_the_same_user_cannot_look_in",
        "service/test_hygiene.py::test_under_a_debugger_nothing_is_served",
    ),
    "on the machine, the same user: learn a key or a credential from files": (
        "deploy/test_up.py::test_what_it_makes_is_private",
    ),
    "on the network: read secrets in flight": (
        "deploy/test_tls_served.py::test_nothing_is_answered_in_the_clear",
        "deploy_units/test_stunnel_examples.py::test_tls_before_the_proxy",
        "deploy/test_settings.py::test_the_strongest_place_decides",
        "deploy_units/test_systemd_units.py::test_both_services_and_their_sockets_agree",
    ),
    "on the network: guess API keys": (
        "service/test_apikeys.py::test_keys_are_256_random_bits",
        "product/test_evidence.py::test_a_guess_says_what_was_claimed_and_from_where",
        "product/test_evidence.py::test_many_guesses_are_few_lines_and_all_of_them_counted",
    ),
    "on the network: guess passwords": (
        "access/test_sign_ins.py::test_an_unknown_name_is_the_same_on_every_worker",
        "product/test_shown_credentials.py::test_a_wrong_password_is_refused_and_on_the_record",
        "product/test_shown_credentials.py::test_no_password_is_tried_while_a_guess_cannot_be_recorded",
        "access/test_users_file.py::test_an_unknown_user_costs_what_a_known_one_does",
        "access/test_users_file.py::test_no_credential_of_the_file_is_ever_logged",
        "access/test_sign_ins.py::test_a_flood_behind_one_address_keeps_other_names_in",
        "product/test_evidence.py::test_whoever_asks_where_things_are_has_a_line",
        "proxy/test_proxy_resources.py::test_no_answer_tells_whether_a_guess_is_the_key",
        "proxy/test_proxy_resources.py::test_no_answer_tells_whether_a_guess_opens_a_container_manager",
        "product/test_evidence.py::test_what_the_proxy_refuses_stands_in_the_log_of_the_service",
        "product/test_evidence.py::test_no_password_is_tried_while_refusals_cannot_be_recorded",
    ),
    "on the network: try credentials where no line is written": (
        "product/test_evidence.py::test_what_a_path_allows_tells_nothing_of_credentials",
        "product/test_evidence.py::test_who_leaves_before_the_body_has_a_line",
    ),
    "on the network: show two credentials": (
        "product/test_shown_credentials.py::test_of_two_credentials_nothing_is_guessed",
        "deploy/test_shown_through.py::test_two_credentials_are_refused_on_every_route",
    ),
    "on the network: pass for a client certificate": (
        "deploy/test_shown_through.py::test_no_field_of_a_clients_passes_for_a_certificate",
        "deploy/test_shown_through.py::test_a_certificate_of_another_authority_does_not_come_in",
        "product/test_shown_credentials.py::test_nobody_but_the_proxy_is_believed_about_a_certificate",
    ),
    "on the network: seem to come from another address": (
        "proxy/test_proxy_addresses.py::test_the_address_is_counted_from_the_right",
        "proxy/test_proxy_addresses.py::test_nobody_else_is_believed",
        "deploy/test_shown_through.py::test_the_address_is_what_the_counted_proxy_says",
    ),
    "on the network: come from a network": (
        "access/test_network_rules.py::test_what_no_rule_allows_is_refused",
        "access/test_network_rules.py::test_every_small_set_of_rules_says_what_brute_force_does",
        "product/test_shown_credentials.py::test_network_rules_hold_over_the_network_alone",
        "product/test_shown_credentials.py::test_from_where_nobody_may_come_no_password_is_tried",
    ),
    "on the network: keep others from signing in": (
        "access/test_sign_ins.py::test_a_flood_of_sign_ins_keeps_nobody_else_out",
        "access/test_sign_ins.py::test_beyond_all_places_one_comes_back_later",
        "access/test_sign_ins.py::test_what_a_flood_takes_from_all",
    ),
    "on the network: fill the disk with refusals": (
        "product/test_evidence.py::test_many_guesses_are_few_lines_and_all_of_them_counted",
        "service/test_strangers.py::test_so_many_addresses_have_lines_of_their_own",
        "service/test_strangers.py::test_strangers_leave_room",
        "service/test_outcomes.py::test_on_a_full_disk_refusals_are_few_lines_and_acts_go_on",
    ),
    "on the network: hide a guess among many": (
        "service/test_strangers.py::test_one_address_is_a_line_and_a_count",
        "service/test_strangers.py::test_claims_are_bounded",
    ),
    "on the network: read how much is done": (
        "product/test_metrics_told.py::test_who_may_read_the_metrics",
        "product/test_metrics_told.py::test_without_a_token_nobody_shows_one",
        "product/test_metrics_told.py::test_every_metric_is_told_and_none_names_anything",
        "proxy/test_proxy_door.py::test_health_is_open_and_readiness_is_the_services",
    ),
    "on the network: make the metrics grow": (
        "service/test_meter.py::test_all_that_can_ever_be_told_is_less_than_a_thousand_series",
        "service/test_meter.py::test_strangers_make_no_series",
    ),
    "on the network: reach secrets past the authentication": (
        "proxy/test_proxy_door.py::test_an_ambiguous_path_is_400_before_anything_else",
        "proxy/test_proxy_door.py::test_a_path_that_looks_like_the_secrets_is_not",
        "product/test_custodia_contract.py::test_ambiguous_paths_are_refused",
        "product/test_limits.py::test_what_is_encoded_to_mean_two_paths_is_refused",
        "proxy/test_proxy_forwarding.py::test_nothing_is_smuggled",
    ),
    "takes the proxy over: see and misuse": (
        "product/test_custodia_auth.py::test_the_proxys_user_opens_nothing_for_strangers",
        "deploy/test_serving.py::test_the_proxy_has_none",
        "deploy_units/test_container.py::test_who_holds_keys_has_no_network",
    ),
    "takes the proxy over: use the proxy's own API key": (
        "product/test_proxys_own_key.py::test_who_takes_it_takes_nothing",
        "product/test_proxys_own_key.py::test_they_reach_every_record_of_the_routes_and_no_other",
        "service/test_believed.py::test_a_key_that_reaches_everything_is_not_the_proxys",
    ),
    "takes the proxy over: act for a user of a file": (
        "service/test_believed.py::test_the_proxys_key_reaches_nothing",
        "product/test_proxys_own_key.py::test_who_takes_it_takes_nothing",
    ),
    "takes the proxy over: act as if from another address": (
        "service/test_believed.py::test_the_proxy_is_believed_about_the_address",
        "service/test_believed.py::test_the_proxy_speaks_for_others_with_its_own_key_alone",
        "product/test_shown_credentials.py::test_a_certificate_is_whose_record_names_it",
    ),
    "takes the proxy over: try keys of others": (
        "product/test_evidence.py::test_who_has_the_proxys_key_tries_right_keys_without_a_line",
        "product/test_evidence.py::test_a_wrong_key_at_a_model_route_is_written_as_what_was_asked",
    ),
    "has an API key: more than": (
        "service/test_door.py::test_all_actions_but_the_one_it_needs",
        "service/test_door.py::test_the_right_action_elsewhere",
        "product/test_one_action_a_verb.py::test_one_action_is_needed_and_enough",
        "product/test_evidence.py::test_whatever_an_identified_caller_is_refused_has_a_line",
    ),
    "has an API key: fill the disk with what is refused": (
        "product/test_evidence.py::test_many_refusals_of_a_key_are_few_lines_and_its_acts_have_one_each",
        "service/test_strangers.py::test_what_somebody_known_is_refused_is_a_line_each_up_to_a_bound",
        "service/test_strangers.py::test_those_who_are_known_leave_room",
        "service/test_outcomes.py::test_on_a_full_disk_refusals_are_few_lines_and_acts_go_on",
    ),
    "has an API key: fill the disk with what is allowed": (
        "product/test_evidence.py::test_many_refusals_of_a_key_are_few_lines_and_its_acts_have_one_each",
        "deploy_units/test_systemd_units.py::test_the_audit_log_is_rotated_as_it_can_bear",
        "product/test_faults.py::test_an_audit_log_that_cannot_be_written_refuses_everything",
    ),
    "has an API key: say on the socket": (
        "product/test_evidence.py::test_nobody_but_the_proxy_is_believed_about_the_network",
        "product/test_evidence.py::test_many_who_pose_as_the_proxy_are_few_lines",
    ),
    "has an API key: steer the terminal": (
        "product/test_evidence.py::test_a_terminal_shows_what_a_stranger_sent_as_escapes",
        "service/test_audit.py::test_what_does_not_print_is_escaped",
        "deploy/test_log.py::test_what_does_not_print_is_escaped",
    ),
    "has an API key: learn which keys there are": (
        "product/test_who_is_told.py::test_keys_are_named_to_whom_they_concern",
        "product/test_custodia_contract.py::test_a_batch_tells_of_no_container",
    ),
    "makes the service fail by what it sends": (
        "service/test_traces.py::test_the_service_tells_the_place_alone",
        "service/test_traces.py::test_the_proxy_tells_the_place_alone",
        "service/test_traces.py::test_whoever_logs_an_exception_its_text_is_not_written",
    ),
    "fills the audit disk: act unseen": (
        "product/test_faults.py::test_an_audit_log_that_cannot_be_written_refuses_everything",
        "service/test_audit.py::test_a_full_disk_refuses_and_recovers",
        "service/test_outcomes.py::test_an_outcome_that_cannot_be_recorded_does_not_change_the_answer",
    ),
    "writes the audit log: remove, edit or add lines": (
        "service/test_audit.py::test_whoever_writes_the_log_is_not_found_out",
    ),
    "on the network: log in with an answer that they saw": (
        "access/test_challenges.py::test_a_challenge_ends",
        "access/test_challenges.py::test_the_mark_is_one_for_a_challenge",
        "access/test_challenges.py::test_another_worker_opens_it_and_the_key_before_is_accepted",
        "product/test_logins.py::test_an_answer_is_good_once",
    ),
    "on the network: learn who may log in": (
        "access/test_challenges.py::test_what_is_nobodys_looks_alike",
        "product/test_logins.py::test_who_is_nobody_gets_a_challenge_and_nothing_else",
        "product/test_login_command.py::test_nobody_is_logged_in_under_another_name_or_with_another_key",
    ),
    "on the network: forge a token": (
        "access/test_tokens.py::test_another_algorithm_is_malformed",
        "access/test_tokens.py::test_each_wrong_claim_has_its_reason",
        "access/test_challenges.py::test_the_keys_of_logins_and_tokens_say_nothing_of_each_other",
        "product/test_login_command.py::test_a_token_that_another_key_signed_is_worth_nothing",
    ),
    "pretends to be the service: log in": (
        "access/test_challenges.py::test_what_is_signed_for_something_else_is_refused",
        "access/test_challenges.py::test_the_client_answers_no_challenge_of_somebody_else",
        "product/test_login_command.py::test_an_answer_that_another_service_asked_for_is_worth_nothing",
    ),
    "steals a token: stay": ("product/test_logins.py::test_a_stolen_token_changes_nobodys_way_in",),
    "steals a token: act": (
        "product/test_logins.py::test_whatever_ends_a_token_ends_it_at_once",
        "access/test_tokens.py::test_a_token_lives_no_longer_than_the_signer_lets_it",
        "product/test_login_command.py::test_a_token_that_was_ended_is_told_as_such",
        "product/test_login_command.py::test_what_lets_somebody_in_is_nowhere_else",
    ),
    "steals a token: keep": ("product/test_login_command.py::test_a_token_outlives_one_rotation_of_its_keyset",),
    "is another user of the machine: read a login": (
        "product/test_login_command.py::test_the_file_of_a_login_is_its_users_alone",
        "product/test_login_command.py::test_another_users_runtime_directory_is_refused",
        "product/test_login_command.py::test_a_runtime_directory_of_anothers_is_not_trusted",
    ),
    "runs an [engine](configuration.md#engines), or is on the way to it: allow": (
        "access/test_engines.py::test_the_matrix",
        "access/test_engines.py::test_https_is_verified",
        "access/test_engines.py::test_http_within_reach_or_by_word",
        "service/test_engines_at_the_door.py::test_what_is_denied_is_not_asked_about",
    ),
    "runs an [engine](configuration.md#engines), or is on the way to it: learn": (
        "access/test_engines.py::test_opa_is_asked_and_answers",
        "service/test_engines_at_the_door.py::test_no_value_is_in_a_question",
    ),
    "runs an [engine](configuration.md#engines), or is on the way to it: keep": (
        "access/test_engines.py::test_every_failure_is_one_and_takes_no_longer",
        "access/test_engines.py::test_a_server_that_is_silent_is_left_alone",
        "service/test_engines_at_the_door.py::test_the_own_key_is_not_asked_about",
    ),
    "asks for odd names: have": (
        "access/test_engines.py::test_no_word_of_a_question_leads_elsewhere",
        "access/test_engines.py::test_a_redirect_is_not_followed",
    ),
    "asks for odd names: close": (
        "access/test_engines.py::test_every_failure_is_one_and_takes_no_longer",
        "access/test_engines.py::test_of_many_names_few_are_asked_about_at_a_time",
        "service/test_engines_at_the_door.py::test_no_request_asks_without_end",
    ),
    "may make and revoke API keys, users and services: come by": (
        "product/test_custodia_auth.py::test_nobody_comes_by_the_container_of_another",
        "service/test_apikeys.py::test_no_id_is_given_out_twice",
        "service/test_door.py::test_no_key_reaches_further_than_its_maker",
        "access/test_principals.py::test_a_name_is_one_in_whatever_case",
        "access/test_principals.py::test_one_of_two_gets_a_name",
    ),
    "may make and revoke API keys, users and services: make an administrator": (
        "service/test_principal_service.py::test_who_may_change_users_does_not_become_an_administrator",
        "service/test_principal_service.py::test_to_make_an_administrator_takes_the_right_to_their_group",
    ),
    "may make and revoke API keys, users and services: shut everybody out": (
        "access/test_principals.py::test_the_last_administrator_stays",
        "access/test_principals.py::test_two_do_not_take_the_last_way_in_together",
    ),
    "writes the store: bring back a user": ("access/test_principals.py::test_what_was_removed_does_not_come_back",),
    "knows a name: guess a code": (
        "service/test_principal_service.py::test_wrong_codes_wait",
        "service/test_slowed.py::test_wrong_setup_codes_wait_as_keys_do",
        "product/test_access_negative.py::test_a_name_that_is_nobodys_takes_as_many_steps",
        "access/test_login_passwords.py::test_unknown_names_cost_what_some_principal_costs",
    ),
    "has an account: widen a rule": (
        "access/test_rules.py::test_a_principal_of_an_odd_name_reaches_nothing_more",
        "access/test_rules.py::test_case_is_never_folded",
        "access/test_principals.py::test_a_name_is_one_in_whatever_case",
        "product/test_access_negative.py::test_nobody_is_called_as_a_pattern",
        "product/test_access_negative.py::test_another_case_is_nobody_else",
    ),
    "has an account: see in a listing": (
        "access/test_rules.py::test_a_deny_holds_for_a_listing_too",
        "product/test_logins.py::test_a_rule_that_denies_holds_in_listings_and_batches",
        "service/test_rule_service.py::test_every_verb_gives_a_name_the_verdict_of_its_rule",
    ),
    "has an account: end another's": (
        "product/test_access_negative.py::test_nobody_ends_what_is_anothers",
        "service/test_principal_service.py::test_nobody_else_is_oneself",
        "service/test_principal_service.py::test_a_rule_denies_what_is_ones_own",
    ),
    "shows no credentials: change anything": (
        "product/test_access_negative.py::test_nobody_changes_anything",
        "service/test_principal_service.py::test_strangers_write_nothing",
        "proxy/test_proxy_openapi.py::test_who_is_nobody_yet_is_asked_for_nothing",
    ),
    "shows no credentials: get a token": ("product/test_access_negative.py::test_no_token_comes_with_an_error",),
    "shows no credentials: have something": ("product/test_access_negative.py::test_no_error_repeats_what_was_sent",),
    "knows a name: set somebody up": (
        "access/test_principals.py::test_a_code_that_is_not_the_one",
        "access/test_principals.py::test_a_code_is_used_once_by_two",
        "service/test_principal_service.py::test_strangers_write_nothing",
        "client/test_client_access.py::test_what_strangers_send",
    ),
}


def rows() -> list[str]:
    """Return the beginning of every row of the table: who, and what they could."""
    found: list[str] = []
    who = ""
    for first, could, _ in _ROW.findall(PAGE.read_text()):
        who = first or who
        found.append(f"{who}: {could}")
    return found[1:]


ROWS: Final = rows()


@cache
def collected_in(file: str) -> frozenset[str]:
    """Return the names of the tests of *file* that pytest collects."""
    tree = ast.parse((ROOT / "tests" / file).read_text())
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name.startswith("Test")]
    nodes = [*tree.body, *(node for each in classes for node in each.body)]
    functions = [node for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return frozenset(node.name for node in functions if node.name.startswith("test_"))


def test_the_table_is_read() -> None:
    """The page has its table, whose rows are told apart by how they begin."""
    assert len(ROWS) >= 45
    assert len(set(ROWS)) == len(ROWS)


@pytest.mark.parametrize("row", ROWS)
def test_every_row_is_held(row: str) -> None:
    """What the page says in a row some test shows; whoever writes a row names the test."""
    assert [start for start in HELD if row.startswith(start)] != []


@pytest.mark.parametrize("start", HELD)
def test_what_holds_a_row_is_there(start: str) -> None:
    """Every entry belongs to one row of the page, and every test that it names is collected."""
    assert len([row for row in ROWS if row.startswith(start)]) == 1
    named = [test.partition("::") for test in HELD[start]]
    assert named
    assert [f"{file}::{name}" for file, _, name in named if name not in collected_in(file)] == []
