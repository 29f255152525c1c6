using System.Diagnostics;
using OpenSora.Cli;

namespace OpenSora.Tests.Cli;

/// <summary>What the commands have in common: help, wrong arguments, JSON, completion.</summary>
public sealed class CommandLineTests : IDisposable
{
    private readonly TemporaryFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    [Fact]
    public async Task Every_command_and_option_has_a_description()
    {
        var help = await Opensora.RunAsync("--help");
        help.Output.ShouldContain("opensora [command]");
        help.ExitCode.ShouldBe(0);
        foreach (var command in CommandLine.Root.Subcommands.SelectMany(command => command.Subcommands.Prepend(command)))
        {
            command.Description.ShouldNotBeNullOrWhiteSpace(command.Name);
            command.Arguments.ShouldAllBe(argument => argument.Description!.EndsWith('.'), command.Name);
            command.Options.ShouldAllBe(option => option.Description!.Length > 0, command.Name);
        }

        help.Output.ShouldContain("generate");
    }

    [Theory]
    [InlineData("unknown")]
    [InlineData("generate")]
    [InlineData("generate", "a goat", "--steps", "many")]
    [InlineData("generate", "a goat", "--nothing")]
    [InlineData("generate", "a goat", "--size", "big")]
    [InlineData("generate", "a goat", "--segment", "a sheep")]
    [InlineData("generate", "a goat", "--precision", "int4")]
    [InlineData("generate", "a goat", "--mask", "mask.png")]
    [InlineData("generate", "a goat", "--count", "0")]
    [InlineData("plan", "run.json", "--hardware", "abacus")]
    [InlineData("completion", "cmd")]
    public async Task Wrong_arguments_have_exit_code_2(params string[] arguments)
    {
        var result = await Opensora.RunAsync(arguments);
        result.ExitCode.ShouldBe(2);
        result.Output.ShouldBeEmpty();
        result.Error.ShouldContain("--help' describes the arguments.");
        result.Error.ShouldNotContain("   at ");
    }

    [Theory]
    [InlineData("--size is 'big'; it must be a width and a height in pixels", "generate", "a goat", "--size", "big")]
    [InlineData("--segment is 'a sheep'; it must be a frame and a prompt", "generate", "a goat", "--segment", "a sheep")]
    [InlineData("--mask and --strength require --edit.", "generate", "a goat", "--strength", "0.5")]
    [InlineData("'opensora models download --help'", "models", "download")]
    public async Task Messages_say_what_is_expected(string message, params string[] arguments) =>
        (await Opensora.RunAsync(arguments)).Error.ShouldContain(message);

    [Fact]
    public async Task Errors_of_the_data_have_exit_code_1_and_a_document()
    {
        var missing = _folder["nothing"];
        var text = await Opensora.RunAsync("inspect", missing);
        (text.ExitCode, text.Output).ShouldBe((1, ""));
        text.Error.ShouldContain(missing);

        var json = await Opensora.RunAsync("inspect", missing, "--json");
        json.ExitCode.ShouldBe(1);
        json.Json.GetProperty("error").GetString()!.ShouldContain(missing);
    }

    [Fact]
    public async Task Inspect_writes_one_document()
    {
        var result = await Opensora.RunAsync("inspect", "stickers", "--json");
        result.ExitCode.ShouldBe(1); // a name is not a path

        result = await Opensora.RunAsync("inspect", Stickers, "--json");
        result.ExitCode.ShouldBe(0);
        result.Json.GetProperty("model").GetString().ShouldBe("stickers");
        var files = result.Json.GetProperty("files");
        files.GetArrayLength().ShouldBe(3);
        files[0].GetProperty("fits")[0].GetProperty("architecture").GetString().ShouldBe("stdit");
        (await Opensora.RunAsync("inspect", Stickers)).Output.ShouldContain("fits STDiT");
    }

    [Fact]
    public async Task Diagnose_describes_the_machine_without_private_data()
    {
        var result = await Opensora.RunAsync("diagnose", "--json");
        result.ExitCode.ShouldBe(0);
        result.Json.GetProperty("libtorch").GetString()!.ShouldContain("found");
        result.Json.GetProperty("backends").EnumerateArray().Select(each => each.GetString()!).ShouldContain(each => each.StartsWith("cpu: "));
        result.Json.GetProperty("models").EnumerateArray().Select(each => each.GetString()).ShouldContain("stickers");
        result.Json.GetProperty("ffmpeg").GetString()!.ShouldStartWith("ffmpeg version");
        var home = Environment.GetFolderPath(Environment.SpecialFolder.UserProfile);
        var text = await Opensora.RunAsync("diagnose");
        text.Output.ShouldNotContain(home + "/");
        text.Output.ShouldNotContain(Environment.MachineName + " ");
    }

    [Fact]
    public async Task Suggestions_complete_commands_options_and_names()
    {
        (await Opensora.RunAsync("[suggest:3]", "gen")).Output.ShouldContain("generate");
        (await Opensora.RunAsync("[suggest:17]", "generate a --ste ")).Output.ShouldContain("--steps");
        (await Opensora.RunAsync("[suggest:28]", "models download open-sora-1.")).Output.ShouldContain("open-sora-1.0-512");
    }

    [Fact]
    public async Task The_script_for_bash_completes_in_bash()
    {
        var script = (await Opensora.RunAsync("completion", "bash")).Output;
        await File.WriteAllTextAsync(_folder["completion.sh"], script);
        var test =
            $"opensora() {{ dotnet {Opensora.Program} \"$@\"; }}; source {_folder["completion.sh"]}; "
            + "COMP_LINE='opensora models down'; COMP_POINT=20; COMP_WORDS=(opensora models down); COMP_CWORD=2; _opensora; "
            + "echo \"${COMPREPLY[@]}\"; complete -p opensora";
        using var bash = Process.Start(new ProcessStartInfo("bash", ["-c", test]) { RedirectStandardOutput = true, UseShellExecute = false })!;
        var output = await bash.StandardOutput.ReadToEndAsync();
        await bash.WaitForExitAsync();
        output.Split('\n')[0].ShouldBe("download");
        output.ShouldContain("-F _opensora opensora");
    }

    [Theory]
    [InlineData("zsh", "compdef _opensora opensora")]
    [InlineData("pwsh", "Register-ArgumentCompleter -Native")]
    [InlineData("fish", "complete -c opensora")]
    public async Task Other_shells_have_scripts(string shell, string part)
    {
        var result = await Opensora.RunAsync("completion", shell);
        result.ExitCode.ShouldBe(0);
        result.Output.ShouldContain(part);
    }

    [Fact]
    public async Task The_start_does_not_need_libtorch()
    {
        foreach (var arguments in new[] { new[] { "--help" }, ["models", "list"] })
        {
            using var process = new Process();
            process.StartInfo = new ProcessStartInfo("dotnet", [Opensora.Program, .. arguments])
            {
                RedirectStandardOutput = true,
                RedirectStandardError = true,
                UseShellExecute = false,
                Environment = { ["LD_DEBUG"] = "files" },
            };
            process.Start();
            var error = process.StandardError.ReadToEndAsync();
            (await process.StandardOutput.ReadToEndAsync()).ShouldContain("models");
            (await error).ShouldNotContain("libtorch");
            await process.WaitForExitAsync();
            process.ExitCode.ShouldBe(0);
        }
    }

    private static string Stickers => Path.Combine(TestFiles.Data(), "..", "..", "models", "stickers");
}
