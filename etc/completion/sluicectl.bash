# bash completion for sluicectl. Verbs, options and arguments are read from its own help, so they are never out of step with it;
# services, streams and workers are asked from the daemon, briefly.

_sluicectl_help() # COMMAND [VERB...]: its help as lines of "verb|option|argument<TAB>words<TAB>what it is"
{
	local command=$1
	shift
	"$command" help "$@" 2>/dev/null | awk -v OFS='\t' '
		/^usage:/ {
			sub(/^usage: *[^ ]+/, ""); gsub(/\[--[^]]*\]/, ""); gsub(/\[|\]/, " ")
			for (i = 1; i <= NF; i++) if ($i ~ /^[A-Z]/) print "argument", $i, ""
			next
		}
		/^  [a-z-]/ && match(substr($0, 3), /  +/) {
			head = substr($0, 3, RSTART - 1); about = substr($0, 2 + RSTART + RLENGTH)
			n = split(head, word, " ")
			if (word[1] ~ /^--/) { print "option", head, about; next }
			verb = word[1]
			for (i = 2; i <= n && word[i] ~ /^[a-z]/; i++) verb = verb " " word[i]
			print "verb", verb, about
		}'
}

_sluicectl_ask() # VERB KEY: the distinct values of KEY in the rows
{
	local socket=() i
	for ((i = 1; i + 1 < ${#words[@]}; i++)); do
		[[ ${words[i]} == --socket ]] && socket=(--socket "${words[i + 1]}")
	done
	"$command" "${socket[@]}" --timeout 500ms --json "$1" 2>/dev/null |
		grep -o "\"$2\":\"[^\"\\\\]*\"" | cut -d '"' -f 4 | sort -u
}

_sluicectl_offer() # VALUES, one a line: sets COMPREPLY. Workers and streams choose their names: quoted, never expanded
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

_sluicectl_value() # WHAT: an argument as the help calls it
{
	case $1 in
	SERVICE) _sluicectl_offer "$(_sluicectl_ask status service)" ;;
	STREAM*) _sluicectl_offer "$(_sluicectl_ask ls stream)" ;;
	WORKER) _sluicectl_offer "$(_sluicectl_ask workers name)" ;;
	STATE) _sluicectl_offer $'locking\nparked\nready\nassigned\nrevoking\nlimbo\nfinishing\nlost\nblocked' ;;
	REASON) _sluicectl_offer $'max_retries_exceeded\nunparseable\ntoo_large\nrejected\noperator\nwrong_type\nbad_name' ;;
	DUR) _sluicectl_offer $'500ms\n10s\n5m\n2h\n1d' ;;
	PATH) mapfile -t COMPREPLY < <(compgen -f -- "$cur") ;;
	esac
	return 0
}

_sluicectl_takes() # OPTION: what its value is called, nothing when it takes none
{
	awk -F '\t' -v o="$1" '$1 == "option" { split($2, w, " "); if (w[1] == o) { print w[2]; exit } }' <<<"$help"
}

_sluicectl_next() # the words that may follow those of the verb that are given
{
	awk -v g="$given" '
		g == "" { print $1 }
		g != "" && index($0, g " ") == 1 { split(substr($0, length(g) + 2), w, " "); print w[1] }' <<<"$verbs" | sort -u
}

_sluicectl()
{
	local cur prev words cword command about i word
	if declare -F _get_comp_words_by_ref >/dev/null; then
		_get_comp_words_by_ref -n : cur prev words cword
	else
		words=("${COMP_WORDS[@]}") cword=$COMP_CWORD cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]}
	fi
	command=$(type -P -- "${words[0]}") || command=sluicectl
	local verbs help given="" asks_help="" n=0 # given: the verb's words so far; n: how many arguments follow it
	help=$(_sluicectl_help "$command")
	verbs=$(awk -F '\t' '$1 == "verb" { print $2 } END { print "help" }' <<<"$help")
	for ((i = 1; i < cword; i++)); do
		word=${words[i]}
		if [[ $word == -* ]]; then
			[[ -z $(_sluicectl_takes "$word") ]] || i=$((i + 1))
		elif [[ $word == help && -z $given$asks_help ]]; then
			asks_help=yes
		elif _sluicectl_next | grep -qx -- "$word"; then
			given+=${given:+ }$word
			# shellcheck disable=SC2086 # its words
			about=$(_sluicectl_help "$command" $given)
			help=${about:-$help} # of half a verb there is none
		else
			n=$((n + 1))
		fi
	done
	if [[ $prev == -* && -n $(_sluicectl_takes "$prev") ]]; then
		_sluicectl_value "$(_sluicectl_takes "$prev")"
	elif [[ $cur == -* ]]; then
		_sluicectl_offer "$(awk -F '\t' '$1 == "option" { sub(/ .*/, "", $2); print $2 }' <<<"$help")"
	elif [[ $n == 0 && (-z $given || -n $(_sluicectl_next)) ]]; then
		_sluicectl_offer "$(_sluicectl_next)"
	elif [[ -z $asks_help ]]; then
		_sluicectl_value "$(awk -F '\t' -v n="$n" '$1 == "argument" && n-- == 0 { print $2 }' <<<"$help")"
	fi
	return 0
}

complete -F _sluicectl sluicectl
