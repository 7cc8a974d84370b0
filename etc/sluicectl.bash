# bash completion for sluicectl. Services, streams and workers are asked from the daemon, briefly.

_sluicectl_ask() # VERB KEY: the distinct values of KEY in the rows
{
	local socket=() i
	for ((i = 1; i + 1 < ${#COMP_WORDS[@]}; i++)); do
		[[ ${COMP_WORDS[i]} == --socket ]] && socket=(--socket "${COMP_WORDS[i + 1]}")
	done
	sluicectl "${socket[@]}" --timeout 500ms --json "$1" 2>/dev/null |
		grep -o "\"$2\":\"[^\"\\\\]*\"" | cut -d '"' -f 4 | sort -u
}

_sluicectl_complete() # VALUES, one a line: set COMPREPLY. Workers and streams choose their names: quoted, never expanded
{
	local value quoted
	COMPREPLY=()
	while IFS= read -r value; do
		printf -v quoted %q "$value"
		[[ -n $value && ($value == "$cur"* || $quoted == "$cur"*) ]] && COMPREPLY+=("$quoted")
	done <<<"$1"
	# behind a ':' the shell replaces only what follows it
	declare -F __ltrim_colon_completions >/dev/null && __ltrim_colon_completions "$cur"
	return 0
}

_sluicectl()
{
	local cur prev words cword verb="" sub="" n=0 i w
	if declare -F _get_comp_words_by_ref >/dev/null; then
		_get_comp_words_by_ref -n : cur prev words cword
	else
		words=("${COMP_WORDS[@]}") cword=$COMP_CWORD cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]}
	fi
	local verbs="status ls show explain workers nodes top pause resume drain undrain release requeue revoke add scan
		topology dlq reload doctor metrics events version help"
	local global="--json --socket --timeout --no-headers --help --version"
	local filters="--reason --stream --id --older-than --limit"

	case $prev in
	--socket) COMPREPLY=($(compgen -f -- "$cur")); return ;;
	--timeout | --older-than) _sluicectl_complete $'500ms\n10s\n5m\n2h\n1d'; return ;;
	--state) _sluicectl_complete $'locking\nparked\nready\nassigned\nrevoking\nlimbo\nfinishing\nlost'; return ;;
	--reason) _sluicectl_complete $'max_retries_exceeded\nunparseable\ntoo_large\nrejected\noperator'; return ;;
	--service) _sluicectl_complete "$(_sluicectl_ask status service)"; return ;;
	--stream) _sluicectl_complete "$(_sluicectl_ask ls stream)"; return ;;
	--info | --count | --limit | --rate | --id) return ;;
	esac

	for ((i = 1; i < cword; i++)); do # n = words behind the verb
		w=${words[i]}
		case $w in
		--socket | --timeout | --older-than | --state | --reason | --service | --stream | --info | --count | --limit | --rate | --id)
			i=$((i + 1)) ;;
		-*) ;;
		*)
			if [[ -z $verb ]]; then
				verb=$w
			elif [[ ($verb == dlq || $verb == topology) && -z $sub ]]; then
				sub=$w
			else
				n=$((n + 1))
			fi ;;
		esac
	done

	if [[ $cur == -* ]]; then
		local options=""
		case $verb in
		status) options="--ready" ;;
		ls) options="--service --state --older-than --limit" ;;
		show | explain | release | requeue) options="--service" ;;
		drain) options="--wait" ;;
		add) options="--info --count" ;;
		events) options="--follow" ;;
		dlq)
			options=$filters
			[[ $sub == replay || $sub == purge ]] && options+=" --rate --dry-run" ;;
		esac
		COMPREPLY=($(compgen -W "$options $global" -- "$cur"))
		return
	fi
	case $verb in
	'' | help) COMPREPLY=($(compgen -W "$verbs" -- "$cur")) ;;
	topology) [[ -z $sub ]] && COMPREPLY=($(compgen -W "refresh" -- "$cur")) ;;
	dlq)
		if [[ -z $sub ]]; then
			COMPREPLY=($(compgen -W "ls show replay purge" -- "$cur"))
		elif ((n == 0)); then
			_sluicectl_complete "$(_sluicectl_ask status service)"
		fi ;;
	pause | resume | scan | add) ((n == 0)) && _sluicectl_complete "$(_sluicectl_ask status service)" ;;
	show | explain | release | requeue) ((n == 0)) && _sluicectl_complete "$(_sluicectl_ask ls stream)" ;;
	revoke) ((n == 0)) && _sluicectl_complete "$(_sluicectl_ask workers name)" ;;
	esac
	return 0
}

complete -F _sluicectl sluicectl
