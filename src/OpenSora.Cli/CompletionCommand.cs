using System.CommandLine;

namespace OpenSora.Cli;

/// <summary>The command <c>opensora completion</c>, which prints a script that completes the arguments of <c>opensora</c> in a shell.</summary>
/// <remarks>The scripts ask the program itself: <c>opensora "[suggest:POSITION]" "ARGUMENTS"</c> prints one suggestion in each line.</remarks>
internal static class CompletionCommand
{
    private const string Bash = """
        # Completion of opensora in bash. Add this line to ~/.bashrc:
        #   source <(opensora completion bash)
        _opensora() {
          local line=${COMP_LINE#"${COMP_WORDS[0]}"} current=${COMP_WORDS[COMP_CWORD]}
          local point=$((COMP_POINT - ${#COMP_WORDS[0]}))
          line=${line# } point=$((point - 1))
          local IFS=$'\n'
          COMPREPLY=($(compgen -W "$(opensora "[suggest:$point]" "$line" 2> /dev/null)" -- "$current"))
        }
        complete -o default -F _opensora opensora
        """;

    private const string Zsh = """
        #compdef opensora
        # Completion of opensora in zsh. Add this line to ~/.zshrc, after compinit:
        #   source <(opensora completion zsh)
        _opensora() {
          local line="${BUFFER#* }"
          local point=$((CURSOR - ${#BUFFER} + ${#line}))
          local -a suggestions
          suggestions=("${(@f)$(opensora "[suggest:$point]" "$line" 2> /dev/null)}")
          compadd -a suggestions
          _files
        }
        compdef _opensora opensora
        """;

    private const string Pwsh = """
        # Completion of opensora in PowerShell. Add this line to $PROFILE:
        #   opensora completion pwsh | Out-String | Invoke-Expression
        Register-ArgumentCompleter -Native -CommandName opensora -ScriptBlock {
            param($word, $ast, $position)
            $text = "$ast".PadRight($position)
            $line = $text.Substring([Math]::Min("opensora ".Length, $text.Length))
            opensora "[suggest:$($position - 'opensora '.Length)]" "$line" 2> $null | Where-Object { $_ -like "$word*" } | ForEach-Object {
                [System.Management.Automation.CompletionResult]::new($_, $_, 'ParameterValue', $_)
            }
        }
        """;

    private const string Fish = """
        # Completion of opensora in fish. Save this script:
        #   opensora completion fish > ~/.config/fish/completions/opensora.fish
        function __opensora_suggestions
            set -l line (commandline -cp | string replace -r '^\S+\s?' '')
            opensora "[suggest:"(string length -- "$line")"]" "$line" 2> /dev/null
        end
        complete -c opensora -a '(__opensora_suggestions)'
        """;

    private static readonly Argument<string> s_shell = new("shell") { Description = "The shell: bash, zsh, pwsh or fish." };

    internal static Command Create()
    {
        s_shell.AcceptOnlyFromAmong("bash", "zsh", "pwsh", "fish");
        var command = new Command("completion", "Prints a script that completes commands and options in a shell.") { s_shell };
        command.SetAction(arguments =>
            arguments.InvocationConfiguration.Output.WriteLine(
                arguments.GetValue(s_shell) switch
                {
                    "bash" => Bash,
                    "zsh" => Zsh,
                    "pwsh" => Pwsh,
                    _ => Fish,
                }
            )
        );
        return command;
    }
}
