using System.CommandLine;
using System.ComponentModel;
using System.Diagnostics;
using System.Reflection;
using System.Runtime.InteropServices;
using System.Runtime.Intrinsics.X86;
using Microsoft.Extensions.DependencyInjection;
using OpenSora.Generation;
using OpenSora.ModelFolders;
using OpenSora.Runtime;
using TorchSharp;

namespace OpenSora.Cli;

/// <summary>The command <c>opensora diagnose</c>: what a bug report needs. It shows no names of users or machines, and home folders as
/// <c>~</c>.</summary>
internal static class DiagnoseCommand
{
    private static readonly string[] s_encoders = ["libx264", "libopenh264", "h264_nvenc", "libx265", "libvpx-vp9", "libaom-av1"];

    internal static Command Create()
    {
        var command = new Command("diagnose", "Describes this machine and what the library finds on it, for bug reports.") { CommandLine.Json };
        command.SetAction(Terminal.Action(RunAsync));
        return command;
    }

    private static async Task<int> RunAsync(ParseResult arguments, Terminal terminal, CancellationToken cancellationToken)
    {
        var facts = new List<(string Name, object? Value)>
        {
            ("version", VersionOf(typeof(VideoGenerator))),
            ("runtime", RuntimeInformation.FrameworkDescription),
            ("system", $"{RuntimeInformation.OSDescription}, {RuntimeInformation.RuntimeIdentifier}"),
            ("processors", Environment.ProcessorCount),
            ("instructionSets", InstructionSets()),
        };
        AddTorch(facts);
        await AddFFmpegAsync(facts, cancellationToken).ConfigureAwait(false);
        AddStorage(facts);
        if (terminal.IsJson)
        {
            terminal.WriteJson(facts.ToDictionary(fact => fact.Name, fact => fact.Value, StringComparer.Ordinal));
            return CommandLine.Success;
        }

        var width = facts.Max(fact => fact.Name.Length) + 2;
        foreach (var (name, value) in facts)
        {
            var lines = value is IEnumerable<string> several ? several.DefaultIfEmpty("none").ToList() : [$"{value}"];
            foreach (var (index, line) in lines.Index())
            {
                await terminal.Output.WriteLineAsync($"{(index == 0 ? name : "").PadRight(width)}{line}").ConfigureAwait(false);
            }
        }

        return CommandLine.Success;
    }

    private static void AddTorch(List<(string, object?)> facts)
    {
        facts.Add(("torchSharp", VersionOf(typeof(torch))));
        try
        {
            facts.Add(("libtorch", $"{torch.__version__}, found"));
            facts.Add(("threads", $"{torch.get_num_threads()} (operators), {torch.get_num_interop_threads()} (between operators)"));
        }
        catch (Exception exception) when (exception is TypeInitializationException or DllNotFoundException)
        {
            facts.Add(("libtorch", Terminal.Shortened($"not loaded: {exception.GetBaseException().Message}")));
        }

        using var provider = VideoGenerator.Create().Services.BuildServiceProvider();
        facts.Add(
            (
                "backends",
                provider
                    .GetServices<IComputeBackend>()
                    .Select(backend => (backend.Name, Availability: backend.CheckAvailability()))
                    .Select(backend => $"{backend.Name}: {(backend.Availability.IsAvailable ? "" : "not available, ")}{backend.Availability.Reason}")
                    .Select(Terminal.Shortened)
                    .ToList()
            )
        );
    }

    private static async Task AddFFmpegAsync(List<(string, object?)> facts, CancellationToken cancellationToken)
    {
        var version = await OutputOfAsync("ffmpeg", ["-version"], cancellationToken).ConfigureAwait(false);
        facts.Add(("ffmpeg", version?.Split('\n')[0].Trim() ?? "not found in PATH"));
        if (version is not null)
        {
            var encoders = await OutputOfAsync("ffmpeg", ["-hide_banner", "-encoders"], cancellationToken).ConfigureAwait(false) ?? "";
            facts.Add(("encoders", string.Join(", ", s_encoders.Where(name => encoders.Contains($" {name} ", StringComparison.Ordinal)))));
        }

        var probe = await OutputOfAsync("ffprobe", ["-version"], cancellationToken).ConfigureAwait(false);
        facts.Add(("ffprobe", probe is null ? "not found in PATH" : "found"));
    }

    private static void AddStorage(List<(string, object?)> facts)
    {
        var memory = GC.GetGCMemoryInfo();
        facts.Add(("memory", $"{Terminal.Bytes(memory.TotalAvailableMemoryBytes)}, {Terminal.Bytes(memory.MemoryLoadBytes)} in use"));
        facts.Add(("disk", Free(Environment.CurrentDirectory, "the current folder")));
        using var hub = new ModelHub();
        facts.Add(("hubCache", $"{Terminal.Shortened(hub.CacheFolder)}, {Free(hub.CacheFolder, "it")}"));
        facts.Add(("hub", Environment.GetEnvironmentVariable("HF_ENDPOINT") is { Length: > 0 } ? "HF_ENDPOINT is set" : "HF_ENDPOINT is not set"));
        facts.Add(("modelFolders", ModelFolder.SearchFolders.Select(Terminal.Shortened).ToList()));
        facts.Add(("models", ModelsCommand.Local().Select(model => model.Name).ToList()));
    }

    private static string Free(string folder, string what) =>
        Disk.FreeSpace(folder) is { } bytes ? $"{Terminal.Bytes(bytes)} free on the disk of {what}" : "unknown free space";

    private static string? VersionOf(Type type) => type.Assembly.GetCustomAttribute<AssemblyInformationalVersionAttribute>()?.InformationalVersion;

    private static string InstructionSets()
    {
        (string Name, bool IsSupported)[] sets =
        [
            ("AVX2", Avx2.IsSupported),
            ("FMA", Fma.IsSupported),
            ("AVX-512F", Avx512F.IsSupported),
            ("AVX-512BW", Avx512BW.IsSupported),
            ("AVX-VNNI", AvxVnni.IsSupported),
            ("AdvSimd", System.Runtime.Intrinsics.Arm.AdvSimd.IsSupported),
        ];
        var found = sets.Where(set => set.IsSupported).Select(set => set.Name).ToList();
        return found.Count == 0 ? "none of those that matter" : string.Join(", ", found);
    }

    // Returns null if the program does not exist or fails.
    private static async Task<string?> OutputOfAsync(string program, string[] arguments, CancellationToken cancellationToken)
    {
        try
        {
            using var process = Process.Start(
                new ProcessStartInfo(program, arguments)
                {
                    RedirectStandardOutput = true,
                    RedirectStandardError = true,
                    RedirectStandardInput = true,
                    UseShellExecute = false,
                }
            )!;
            var errors = process.StandardError.ReadToEndAsync(cancellationToken);
            var output = await process.StandardOutput.ReadToEndAsync(cancellationToken).ConfigureAwait(false);
            await errors.ConfigureAwait(false);
            await process.WaitForExitAsync(cancellationToken).ConfigureAwait(false);
            return process.ExitCode == 0 ? output : null;
        }
        catch (Win32Exception)
        {
            return null;
        }
    }
}
