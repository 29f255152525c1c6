using System.CommandLine;
using System.ComponentModel;
using System.Diagnostics;
using OpenSora.Runtime;

namespace OpenSora.Cli;

/// <summary>The command <c>opensora setup</c>, which downloads libtorch to NuGet's package folder.</summary>
/// <remarks>The .NET SDK downloads the package, so the package sources, credentials and proxies of the machine apply.</remarks>
internal static class SetupCommand
{
    private const string Help =
        "Downloads libtorch (about 130 MB, 490 MB extracted) to NuGet's package folder. Commands that compute with tensors need it.";

    internal static Command Create()
    {
        var command = new Command("setup", Help);
        command.SetAction((_, cancellationToken) => RunAsync(cancellationToken));
        return command;
    }

    private static async Task<int> RunAsync(CancellationToken cancellationToken)
    {
        if (Directory.Exists(LibTorchPackage.NativeFolder))
        {
            Console.WriteLine($"libtorch {LibTorchPackage.Version} is installed: {LibTorchPackage.NativeFolder}");
            return 0;
        }

        if (LibTorchPackage.Platform is not ("linux-x64" or "win-x64" or "osx-arm64"))
        {
            Console.Error.WriteLine(
                $"libtorch is not available for {LibTorchPackage.Platform}: TorchSharp supports 64-bit x86 on Linux and Windows, and Apple silicon."
            );
            return 1;
        }

        Console.WriteLine(
            $"Downloading {LibTorchPackage.Name} {LibTorchPackage.Version} (about 130 MB, 490 MB extracted) to {LibTorchPackage.PackagesFolder}"
        );
        var folder = Directory.CreateTempSubdirectory("opensora-");
        try
        {
            var project = Path.Combine(folder.FullName, "libtorch.csproj");
            await File.WriteAllTextAsync(project, Project, cancellationToken).ConfigureAwait(false);
            var code = await RestoreAsync(project, cancellationToken).ConfigureAwait(false);
            if (code == 0 && !Directory.Exists(LibTorchPackage.NativeFolder))
            {
                Console.Error.WriteLine($"The package does not contain the folder {LibTorchPackage.NativeFolder}.");
                return 1;
            }

            Console.WriteLine(code == 0 ? $"Installed: {LibTorchPackage.NativeFolder}" : $"'dotnet restore' failed with exit code {code}.");
            return code;
        }
        catch (Win32Exception exception)
        {
            Console.Error.WriteLine($"The .NET SDK is required to download packages, and 'dotnet' cannot be started: {exception.Message}");
            return 1;
        }
        finally
        {
            folder.Delete(recursive: true);
        }
    }

    private static string Project =>
        $"""
            <Project Sdk="Microsoft.NET.Sdk">
              <PropertyGroup>
                <TargetFramework>net10.0</TargetFramework>
                <NuGetAudit>false</NuGetAudit>
              </PropertyGroup>
              <ItemGroup>
                <PackageDownload Include="{LibTorchPackage.Name}" Version="[{LibTorchPackage.Version}]" />
              </ItemGroup>
            </Project>
            """;

    private static async Task<int> RestoreAsync(string project, CancellationToken cancellationToken)
    {
        string[] arguments = ["restore", project, "--packages", LibTorchPackage.PackagesFolder, "--verbosity", "quiet"];
        using var process = Process.Start(new ProcessStartInfo("dotnet", arguments) { UseShellExecute = false })
            ?? throw new InvalidOperationException("'dotnet restore' did not start.");
        try
        {
            await process.WaitForExitAsync(cancellationToken).ConfigureAwait(false);
        }
        catch (OperationCanceledException)
        {
            process.Kill(entireProcessTree: true);
            throw;
        }

        return process.ExitCode;
    }
}
